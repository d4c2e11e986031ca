"""What runs inside SageMaker jobs: process, train, compress, compile. Knows nothing of AWS and never imports `ebb`."""
