// The hot loops for AVX-512.
#define MONOLITH_KERNELS kKernelsAvx512
#include "kernels_impl.hpp"
