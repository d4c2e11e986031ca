"""What MiniStack leaves open and Ebb needs: one module per gap, each with `install()`."""
