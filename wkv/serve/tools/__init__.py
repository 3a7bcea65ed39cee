"""Tools that a model may call: what is offered, how it is told, and how calls are found."""
