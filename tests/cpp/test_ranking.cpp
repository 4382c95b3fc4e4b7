// Tests of the ranking path: the store of entities against std::map and under threads, dense layers against plain loops
// on every instruction set.
#include <atomic>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "check.hpp"
#include "failing_allocations.hpp"
#include "kernels/kernels.hpp"
#include "ranking/dense_stack.hpp"
#include "ranking/entity_store.hpp"
#include "ranking/ranker.hpp"

namespace {

using namespace monolith;
using namespace monolith::ranking;

// One entity: fids id, id + 1, .. of a number that depends on `version`, dense value `version`.
void put(EntityStore& store, int64_t id, int32_t version, int64_t expires_ms) {
    const std::vector<int32_t> lengths{1, version % 5};
    std::vector<int64_t> fids(1 + static_cast<size_t>(version % 5));
    std::iota(fids.begin(), fids.end(), id);
    const auto dense = static_cast<float>(version);
    store.put(&id, 1, lengths.data(), fids.data(), &dense, expires_ms);
}

void check_row(int64_t id, const Rows& rows, float dense) {
    CHECK(rows.lengths.size() == 2 && rows.lengths[0] == 1 && rows.fids[0] == id);
    CHECK(rows.fids.size() == static_cast<size_t>(1 + rows.lengths[1]));
    CHECK(rows.lengths[1] == static_cast<int32_t>(dense) % 5);
    for (size_t i = 0; i < rows.fids.size(); ++i) CHECK(rows.fids[i] == id + static_cast<int64_t>(i));
}

TEST(a_store_of_entities_is_a_bounded_map) {
    constexpr size_t kMost = 40;
    EntityStore store({1, 1, 1}, {0.0f}, {kMost, 1 << 20});
    std::mt19937 random(3);
    std::map<int64_t, std::pair<int32_t, int>> model;  // version, and when it was put
    for (int step = 0; step < 4000; ++step) {
        const auto id = static_cast<int64_t>(random() % 120);
        if (random() % 2 == 0) {
            put(store, id, step, step + 500);
            model[id] = {step, step};
            if (model.size() > kMost)
                model.erase(std::min_element(model.begin(), model.end(), [](const auto& a, const auto& b) {
                    return a.second.second < b.second.second;
                }));
            CHECK(store.size() == model.size());
        } else {
            Rows rows;
            float dense = -1;
            std::vector<int64_t> missing;
            const bool any_age = random() % 2 == 0;
            store.read(&id, 1, step, any_age ? Age::kHeld : Age::kFresh, rows, &dense, 1, missing);
            const auto found = model.find(id);
            const bool is_there = found != model.end() && (any_age || found->second.second + 500 > step);
            CHECK(missing.empty() == is_there && dense == static_cast<float>(is_there ? found->second.first : 0));
            check_row(id, rows, dense);
        }
    }
}

TEST(a_store_of_entities_keeps_its_bytes) {
    EntityStore store({1, 1, 1}, {0.0f}, {1 << 20, 4000});
    for (int64_t id = 0; id < 1000; ++id) put(store, id, 4, 1);
    CHECK(store.num_bytes() <= 4000 && store.size() >= 20);
}

// The id whose hash is `hash`.
int64_t id_of(uint64_t hash) {
    hash ^= hash >> 33;
    hash *= 0x9cb4b2f8129337dbull;
    hash ^= hash >> 33;
    hash *= 0x4f74430c22a54005ull;
    return static_cast<int64_t>(hash ^ (hash >> 33));
}

TEST(crafted_ids_do_not_crowd_a_store) {
    for (const uint32_t shift : {0u, 20u, 44u}) {
        EntityStore store({1, 1, 1}, {0.0f}, {1 << 20, 1 << 28});
        for (uint64_t i = 0; i < 5000; ++i) {
            CHECK(hash_fid(id_of(i << shift)) == i << shift);
            put(store, id_of(i << shift), 4, 1);
        }
        CHECK(store.size() == 5000 && store.longest_run() < 500);
    }
}

TEST(a_store_stays_whole_when_an_allocation_fails) {
    constexpr size_t kBatch = 40;
    const std::vector<int32_t> lengths(2 * kBatch, 1);
    const std::vector<float> dense(kBatch, 1.0f);
    bool has_failed = true;
    for (size_t count = 0; has_failed; ++count) {
        EntityStore store({1, 1, 1}, {0.0f}, {kBatch, 1 << 20});
        std::vector<int64_t> ids(kBatch), fids(2 * kBatch);
        has_failed = false;
        for (int64_t round = 0; round < 4; ++round) {
            std::iota(ids.begin(), ids.end(), 15 * round);
            for (size_t i = 0; i < fids.size(); ++i) fids[i] = ids[i / 2];
            const check::FailingAllocation failing(count);
            try {
                store.put(ids.data(), kBatch, lengths.data(), fids.data(), dense.data(), 1);
            } catch (const std::bad_alloc&) {
                has_failed = true;
            }
        }
        std::vector<float> values(kBatch);
        Rows rows;
        std::vector<int64_t> missing;
        store.read(ids.data(), kBatch, 0, Age::kFresh, rows, values.data(), 1, missing);
        CHECK(missing.size() + store.size() >= kBatch);
        for (size_t i = 0; i < kBatch; ++i) CHECK(rows.fids.size() > i && (values[i] == 1.0f || values[i] == 0.0f));
    }
}

TEST(readers_of_a_store_see_whole_entities) {
    EntityStore store({1, 1, 1}, {0.0f}, {60, 1 << 20});
    std::atomic<bool> stop{false};
    std::vector<std::thread> readers;
    std::atomic<int> wrong{0};
    for (int t = 0; t < 3; ++t)
        readers.emplace_back([&, t] {
            std::mt19937 random(static_cast<uint32_t>(t));
            while (!stop) {
                const auto id = static_cast<int64_t>(random() % 100);
                Rows rows;
                float dense = 0;
                std::vector<int64_t> missing;
                store.read(&id, 1, 0, Age::kHeld, rows, &dense, 1, missing);
                try {
                    check_row(id, rows, dense);
                } catch (const check::Failure&) {
                    ++wrong;
                }
            }
        });
    for (int step = 0; step < 3000; ++step) put(store, step % 100, step, 1);
    stop = true;
    for (std::thread& reader : readers) reader.join();
    CHECK(wrong == 0);
}

float value_at(size_t i) { return static_cast<float>(i * 37 % 19) / 19.0f - 0.45f; }

float as_bf16(float value) {
    kernels().tower.round(&value, 1);
    return value;
}

void check_stack(size_t n, uint32_t in, uint32_t out, bool bf16) {
    std::vector<float> weights(size_t{in} * out), biases(out), inputs(n * in);
    for (size_t i = 0; i < weights.size(); ++i) weights[i] = value_at(i + 3);
    for (size_t i = 0; i < out; ++i) biases[i] = value_at(i);
    for (size_t i = 0; i < inputs.size(); ++i) inputs[i] = value_at(2 * i);
    // Candidates share every third input: of request input k the value of candidate 0.
    std::vector<uint32_t> shared, own;
    for (uint32_t k = 0; k < in; ++k) (k % 3 == 0 ? shared : own).push_back(k);
    const std::vector<LayerWeights> layers{{weights.data(), biases.data(), in, out, true, bf16}};
    const DenseStack stack(layers, shared, own);
    std::vector<float> x(even(shared.size())), start(stack.start_width()), y(n * stack.in());
    for (size_t k = 0; k < shared.size(); ++k) x[k] = inputs[shared[k]];
    for (size_t i = 0; i < n; ++i)
        for (size_t k = 0; k < own.size(); ++k) y[i * stack.in() + k] = inputs[i * in + own[k]];
    stack.begin(x.data(), start.data());
    const float* const outputs = stack.run(y.data(), n, start.data());
    const auto rounded = [&](float value) { return bf16 ? as_bf16(value) : value; };
    for (size_t i = 0; i < n; ++i)
        for (uint32_t o = 0; o < out; ++o) {
            double sum = rounded(biases[o]);
            for (uint32_t k = 0; k < in; ++k)
                sum += double{rounded(inputs[(k % 3 == 0 ? 0 : i) * in + k])} * rounded(weights[size_t{o} * in + k]);
            const double expected = sum < 0 ? 0 : sum;
            CHECK(std::abs(outputs[i * stack.width() + o] - expected) < (bf16 ? 0.02 : 1e-4) * (1 + expected));
        }
}

TEST(dense_layers_are_those_of_plain_loops_on_every_level) {
    const std::string best = simd_level();
    for (const std::string& level : simd_levels()) {
        set_simd_level(level);
        for (const size_t n : {1, 2, 3, 7, 8, 21})
            for (const bool bf16 : {false, true}) {
                check_stack(n, 5, 3, bf16);
                check_stack(n, 64, 33, bf16);
                check_stack(n, 31, 160, bf16);
            }
    }
    set_simd_level(best);
}

TEST(work_that_cannot_be_done_in_time_is_refused) {
    WorkLimit limit(1);
    CHECK(limit.admit(1000, 0.01) == 0);
    limit.done(1000, 0.1);
    CHECK(limit.admit(500, 0.06) == 0);
    CHECK(std::abs(limit.admit(500, 0.06) - 0.1) < 1e-9);
    for (int i = 0; i < 15; ++i) limit.admit(500, 0.06);
    CHECK(limit.admit(500, 0.06) == 0);  // the estimate was forgotten
}

}  // namespace
