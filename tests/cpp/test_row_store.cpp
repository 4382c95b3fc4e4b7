// Tests of the row store: rows that move with their content, reuse of rows, and the initial optimizer state.
#include <set>

#include "check.hpp"
#include "table/row_store.hpp"

namespace {

using namespace monolith;

uint32_t allocate(RowStore& store) {
    std::vector<uint32_t> rows;
    store.allocate(1, rows);
    return rows.at(0);
}

TEST(rows_keep_their_content_and_never_overlap) {
    for (uint32_t state : {0u, 1u, 8u, 17u}) {
        constexpr uint32_t kDim = 8, kNum = 200'000;  // several times the addresses reserved first
        RowStore store(kDim, state);
        for (uint32_t i = 0; i < kNum; ++i) {
            const uint32_t row = allocate(store);
            CHECK(row == i);
            for (uint32_t d = 0; d < kDim; ++d) store.weights(row)[d] = static_cast<float>(i * 2);
            for (uint32_t d = 0; d < state; ++d) store.state(row)[d] = static_cast<float>(i * 2 + 1);
        }
        CHECK(store.end() == kNum);
        for (uint32_t row = 0; row < kNum; ++row) {
            for (uint32_t d = 0; d < kDim; ++d) CHECK(store.weights(row)[d] == static_cast<float>(row * 2));
            for (uint32_t d = 0; d < state; ++d) CHECK(store.state(row)[d] == static_cast<float>(row * 2 + 1));
        }
    }
}

TEST(released_rows_are_allocated_before_new_ones) {
    RowStore store(4, 1);
    std::vector<uint32_t> all;
    store.allocate(3'000, all);
    std::set<uint32_t> released;
    for (uint32_t row = 5; row < 3'000; row += 7) {
        store.release(row);
        released.insert(row);
    }
    for (size_t left = released.size(); left > 0; --left) CHECK(released.erase(allocate(store)) == 1);
    CHECK(store.end() == 3'000);
    CHECK(allocate(store) == 3'000);
}

TEST(a_full_store_stays_as_it_was) {
    RowStore store(4, 1);
    std::vector<uint32_t> rows;
    store.allocate(3, rows);
    store.release(1);
    CHECK_THROWS(store.allocate(size_t{1} << 32, rows), TableFull);
    CHECK(rows.size() == 3 && store.end() == 3);
    CHECK(allocate(store) == 1);
    CHECK(allocate(store) == 3);
}

TEST(state_starts_as_each_rule_says) {
    constexpr uint32_t kDim = 4;
    Hyperparameters hyperparameters;
    hyperparameters.initial_accumulator = 0.5f;
    const auto started = [&](Optimizer optimizer) {
        Slice slice;
        slice.dim = kDim;
        slice.optimizer = optimizer;
        slice.hyperparameters = hyperparameters;
        std::vector<float> weights(kDim), state(state_width(slice), -1.0f);
        kernels().start_row(&slice, 1, 7, weights.data(), state.data());
        return state;
    };
    using Floats = std::vector<float>;
    CHECK(started(Optimizer::kSgd).empty());
    CHECK(started(Optimizer::kAdagrad) == Floats(kDim, 0.5f));
    CHECK(started(Optimizer::kRowwiseAdagrad) == Floats(1, 0.5f));
    CHECK(started(Optimizer::kAdam) == Floats(2 * kDim + 1, 0.0f));
    CHECK(started(Optimizer::kFtrl) == (Floats{0, 0, 0, 0, 0.5f, 0.5f, 0.5f, 0.5f}));
}

}  // namespace
