"""What a `Producer` is made of: the buffer, storing from it, and what became of each event."""
