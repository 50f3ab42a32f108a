"""What OpenDocument's styles say of lists, sheets and slides."""
