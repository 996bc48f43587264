"""Whole segmentation networks of foveal's own; those of an encoder and a decoder are in `models.decoders`."""

from foveal.models.networks.base import create_network, list_networks, register_network

__all__ = ["create_network", "list_networks", "register_network"]
