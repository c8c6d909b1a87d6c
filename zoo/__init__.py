"""The conversion conformance suite: every kind of model that modelkeep promises to convert, converted and proven.

make zoo
"""
