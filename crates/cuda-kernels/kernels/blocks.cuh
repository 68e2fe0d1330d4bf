// Layouts of the block types and the decoding of their elements, as the crate `blocks` has them.
#pragma once
#include "common.cuh"
