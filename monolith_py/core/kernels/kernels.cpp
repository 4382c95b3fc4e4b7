// Choice of the kernels for the best instruction set of this machine.
#include "kernels/kernels.hpp"

#include <atomic>
#include <span>

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

std::span<const Level> levels() {
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
    return all;
}

const Level* available(const std::string& name) {
    for (const Level& level : levels())
        if (level.name == name && level.available) return &level;
    return nullptr;
}

std::atomic<const Level*> chosen{available(simd_levels().front())};

}  // namespace

const Kernels& kernels() { return *chosen.load(std::memory_order_relaxed)->kernels; }

bool has_bf16() {
#if defined(__x86_64__)
    static const bool has = __builtin_cpu_supports("avx512bf16");
    return has && kernels().dense.forward_pairs != nullptr;
#else
    return false;
#endif
}

std::string simd_level() { return chosen.load()->name; }

std::vector<std::string> simd_levels() {
    std::vector<std::string> names;
    for (const Level& level : levels())
        if (level.available) names.push_back(level.name);
    return names;
}

bool set_simd_level(const std::string& name) {
    const Level* const level = available(name);
    if (level) chosen = level;
    return level != nullptr;
}

}  // namespace monolith
