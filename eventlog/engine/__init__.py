"""What logs, topics and transactions do alike on every engine; the contract is `eventlog.log`."""
