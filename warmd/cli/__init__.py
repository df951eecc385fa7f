"""warmctl, the operator's tool. Its modules are imported by name: most calls need few of them."""
