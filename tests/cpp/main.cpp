// Runs every linked test; the last line has the numbers of passed and failed ones.
#include <cstdio>
#include <exception>

#include "check.hpp"

int main() {
    int passed = 0, failed = 0;
    for (const auto& test : monolith::check::tests()) {
        std::string cause;
        try {
            test.run();
            ++passed;
            continue;
        } catch (const std::exception& error) {
            cause = error.what();
        }
        ++failed;
        std::printf("FAILED %s: %s\n", test.name, cause.c_str());
    }
    std::printf("%d passed, %d failed\n", passed, failed);
    return failed == 0 ? 0 : 1;
}
