"""Tools for who works on modelkeep; none of them is shipped."""
