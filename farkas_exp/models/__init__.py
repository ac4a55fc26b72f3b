"""The networks. `catalogue` describes them without PyTorch; `create_model` builds one."""
