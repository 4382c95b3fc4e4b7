// Registration of tests and checks; needs a compiler only, no framework.
#pragma once

#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

namespace monolith::check {

struct Failure : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Test {
    const char* name;
    std::function<void()> run;
};

inline std::vector<Test>& tests() {
    static std::vector<Test> tests;
    return tests;
}

inline bool add(const char* name, std::function<void()> run) {
    tests().push_back({name, std::move(run)});
    return true;
}

inline void require(bool holds, const char* condition, const char* file, int line) {
    if (!holds) throw Failure(std::string(file) + ":" + std::to_string(line) + ": " + condition);
}

}  // namespace monolith::check

#define CHECK(condition) ::monolith::check::require(static_cast<bool>(condition), #condition, __FILE__, __LINE__)

#define CHECK_THROWS(expression, Exception)                                  \
    do {                                                                     \
        bool thrown = false;                                                 \
        try {                                                                \
            expression;                                                      \
        } catch (const Exception&) {                                         \
            thrown = true;                                                   \
        }                                                                    \
        ::monolith::check::require(thrown, #expression, __FILE__, __LINE__); \
    } while (false)

#define TEST(name)                                                            \
    static void name();                                                       \
    static const bool name##_is_a_test = ::monolith::check::add(#name, name); \
    static void name()
