//! Tensors: shapes, dtypes, storage, devices, and every operation on them
