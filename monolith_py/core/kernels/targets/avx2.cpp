// Kernels for AVX2.
#define MONOLITH_KERNELS kKernelsAvx2
#include "kernels/per_target/kernels-inl.hpp"
