// The hot loops for AVX2.
#define MONOLITH_KERNELS kKernelsAvx2
#include "kernels_impl.hpp"
