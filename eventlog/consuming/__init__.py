"""What a `Consumer` is made of: where to read, what was read ahead, how it becomes one sequence."""
