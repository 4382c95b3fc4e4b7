// Picks the kernels of the best instruction set that this machine has.
#include "kernels.hpp"

#include <atomic>

namespace monolith {

extern const Kernels kKernelsPortable;
#if defined(__x86_64__)
extern const Kernels kKernelsAvx2;
extern const Kernels kKernelsAvx512;
#endif

namespace {

struct Level {
    const char* name;
    const Kernels* kernels;
    bool available;
};

const Level* levels(size_t* count) {
#if defined(__x86_64__)
    static const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                             __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi2");
    static const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
    static const Level all[] = {
        {"avx512", &kKernelsAvx512, avx512}, {"avx2", &kKernelsAvx2, avx2}, {"portable", &kKernelsPortable, true}};
#else
    static const Level all[] = {{"portable", &kKernelsPortable, true}};
#endif
    *count = sizeof all / sizeof all[0];
    return all;
}

const Level* best() {
    size_t count;
    const Level* all = levels(&count);
    while (!all->available) ++all;
    return all;
}

std::atomic<const Level*> chosen{best()};

}  // namespace

const Kernels& kernels() { return *chosen.load(std::memory_order_relaxed)->kernels; }

std::string simd_level() { return chosen.load()->name; }

bool set_simd_level(const std::string& level) {
    size_t count;
    const Level* all = levels(&count);
    for (size_t i = 0; i < count; ++i)
        if (all[i].name == level && all[i].available) {
            chosen = &all[i];
            return true;
        }
    return false;
}

}  // namespace monolith
