// Driver of a fuzz target with seeded random inputs: PROGRAM [NUM_INPUTS [FIRST_SEED]]. With libFuzzer, link that
// instead.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <random>
#include <vector>

#include "check.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

int main(int argc, char** argv) {
    const unsigned long num_inputs = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 1000;
    const unsigned long first = argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 0;
    for (unsigned long seed = first; seed < first + num_inputs; ++seed) {
        std::mt19937_64 random(seed);
        std::vector<uint8_t> input(random() % 2048);
        for (uint8_t& byte : input) byte = static_cast<uint8_t>(random());
        std::string cause;
        try {
            LLVMFuzzerTestOneInput(input.data(), input.size());
            continue;
        } catch (const std::exception& error) {
            cause = error.what();
        }
        std::printf("FAILED with seed %lu: %s\n0 passed, 1 failed\n", seed, cause.c_str());
        return 1;
    }
    std::printf("%lu inputs\n1 passed, 0 failed\n", num_inputs);
}
