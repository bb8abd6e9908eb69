"""Floor 3: one module per step of a recipe. `run(stage, context)` reads as the algorithm; none imports another."""
