"""Called when the model is served: objects with named fields in, prices out."""

import json
from pathlib import Path

import torch
from prices import INPUTS, Prices


def model_fn(model_dir):
    network = Prices()
    network.load_state_dict(torch.load(Path(model_dir) / "weights.pt", weights_only=True))
    return network.eval()


def input_fn(body, content_type):
    assert content_type == "application/json"
    houses = json.loads(body)["instances"]
    return torch.tensor([[float(house[name]) for name in INPUTS] for house in houses])


def output_fn(prediction, accept):
    return json.dumps({"predictions": [{"value": round(price * 1000)} for price in prediction[:, 0].tolist()]}), accept
