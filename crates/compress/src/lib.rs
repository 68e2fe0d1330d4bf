//! Recipes: walk a model, apply a method to each tensor, write the result
