# SPDX-License-Identifier: Apache-2.0
"""What a route file keeps of a calibration; `via_ext.calibrate` (`run.py`) makes one.

Routes and engines import the stored form from here, so that making one is not loaded with it.
"""

from via_ext.calibration.stored import Calibration, Setting

__all__ = ["Calibration", "Setting"]
