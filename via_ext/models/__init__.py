# SPDX-License-Identifier: Apache-2.0
"""Adapters to transformers models: slim views, the KV arena, forward passes over parts."""

from via_ext.models.assistant import slim_view
from via_ext.models.families import SUPPORTED_FAMILIES, check_supported

__all__ = ["SUPPORTED_FAMILIES", "check_supported", "slim_view"]
