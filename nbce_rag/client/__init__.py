"""An engine that stands on another machine, behind `nbce-rag serve`. Loads no model library."""
