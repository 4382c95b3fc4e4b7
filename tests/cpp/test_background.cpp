// Tests of the rule by which threads in the background get more of a core when they are starved.
#include "check.hpp"
#include "replica/background.hpp"

namespace {

using monolith::Background;

TEST(threads_are_starved_when_they_wait_for_a_core_most_of_the_time) {
    CHECK(!Background::starves(0.04, 0.0));  // too short to tell
    CHECK(!Background::starves(0.8, 0.11));
    CHECK(Background::starves(0.9, 0.11));
}

TEST(starved_threads_are_niced_for_ever_more_calls) {
    Background background;
    for (const size_t num : {64, 128, 256, 512, 1024, 1024}) {
        background.end_call(false);
        CHECK(!background.is_niced());
        background.end_call(true);
        for (size_t call = 0; call < num; ++call) {
            CHECK(background.is_niced());
            background.end_call(true);
        }
        CHECK(!background.is_niced());
    }
}

}  // namespace
