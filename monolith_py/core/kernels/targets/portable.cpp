// Kernels for any machine.
#define MONOLITH_KERNELS kKernelsPortable
#include "kernels/per_target/kernels-inl.hpp"
