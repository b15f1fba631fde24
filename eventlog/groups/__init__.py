"""What a `ConsumerGroup` keeps in a `BlobStore`: its documents, its checkpoints, and the races."""
