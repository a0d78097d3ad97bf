"""Which release is to blame? Versions of one variant measured in the order that a bisection asks for."""
