"""What a person reads: tables, pictures, words."""
