#!/bin/sh
# SageMaker starts an image with one word: `train` as a trial of a tuning job, `serve` as an endpoint. Every other job's
# request names its own entry point. https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo.html
[ "${1:-}" = train ] && exec python3 /opt/ml/input/data/code/run.py train
exec python3 /opt/ml/model/code/serve.py
