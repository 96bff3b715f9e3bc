"""Commands beside the four steps: pretrained networks, the report on the machine, the cluster."""
