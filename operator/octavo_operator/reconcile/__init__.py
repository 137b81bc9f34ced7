"""One pass over one service: observe, plan, render, apply, observe again, report. Level-based; see `reconciler`."""
