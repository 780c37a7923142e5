# SPDX-License-Identifier: Apache-2.0
"""Is a third tier worth it for a model on this machine (docs/tiers.md)."""

from via_ext.doctor.diagnosis import Diagnosis, diagnose

__all__ = ["Diagnosis", "diagnose"]
