"""What two or more steps share, one room a file."""
