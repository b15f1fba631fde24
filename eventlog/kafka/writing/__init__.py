"""Appending to a Kafka cluster: single sets, transactions, and what producers send through."""
