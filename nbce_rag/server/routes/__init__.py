"""What is reached under which address: transport only."""
