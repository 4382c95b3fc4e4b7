// Kernels for AVX-512.
#define MONOLITH_KERNELS kKernelsAvx512
#include "kernels/per_target/kernels-inl.hpp"
