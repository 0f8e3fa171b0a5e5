"""Character language model: the names of the characters of Unicode, letter by letter."""
