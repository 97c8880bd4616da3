"""Menu of backbones: each file exposes `Model`, images in, named feature maps out; `config.backbone.name` picks one."""
