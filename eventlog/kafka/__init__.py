"""The engine on a Kafka cluster; see `eventlog.open`."""
