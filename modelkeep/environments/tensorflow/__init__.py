"""What runs inside the TensorFlow environment. It imports TensorFlow, and of modelkeep only what needs nothing."""
