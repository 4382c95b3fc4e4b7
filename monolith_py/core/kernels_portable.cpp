// The hot loops for any machine.
#define MONOLITH_KERNELS kKernelsPortable
#include "kernels_impl.hpp"
