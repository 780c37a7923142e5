# SPDX-License-Identifier: Apache-2.0
"""Adapters to transformers models: slim views, the KV arena, forward passes over parts."""

from via_ext.models.families import SUPPORTED_FAMILIES, check_supported
from via_ext.models.view import slim_view

__all__ = ["SUPPORTED_FAMILIES", "check_supported", "slim_view"]
