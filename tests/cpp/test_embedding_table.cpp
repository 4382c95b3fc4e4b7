// Tests of large tables against std::unordered_map, and of the pooled look-up with shared tables.
#include <random>
#include <unordered_map>

#include "check.hpp"
#include "table/pooled.hpp"
#include "table_settings.hpp"

namespace {

using namespace monolith;

constexpr uint32_t kDim = 4;

TableSettings settings(int64_t ttl_s, float init_scale = 0) {
    return check::settings_of(kDim, Optimizer::kSgd, 1.0f, init_scale, 1, ttl_s);
}

// Rows start at zero and every update adds one: a row equals its number of updates.
TEST(a_seeded_random_walk_agrees_with_unordered_map) {
    struct Entry {
        int64_t seen_s;
        float updates;
    };
    constexpr int64_t kTtl = 40;
    std::mt19937_64 random(2);
    EmbeddingTable table(settings(kTtl));
    std::unordered_map<int64_t, Entry> model;
    size_t num_evicted = 0;
    for (int64_t now_s = 0; now_s < 200; ++now_s) {
        std::vector<int64_t> fids(2'000);
        for (int64_t& fid : fids)  // most fids come from a moving range, a quarter from a fixed one
            fid = random() % 4 == 0 ? static_cast<int64_t>(random() % 500)
                                    : static_cast<int64_t>(random() % 3'000) + now_s * 200;
        std::vector<uint32_t> rows(fids.size());
        table.find_or_insert(fids.data(), fids.size(), now_s, rows.data());
        for (int64_t fid : fids) model.try_emplace(fid, Entry{now_s, 0}).first->second.seen_s = now_s;
        check::update(table, rows, [](uint32_t, float* sum) {
            for (uint32_t d = 0; d < kDim; ++d) sum[d] -= 1;
        });
        for (int64_t fid : fids) ++model.at(fid).updates;
        const size_t expired =
            std::erase_if(model, [&](const auto& entry) { return entry.second.seen_s < now_s - kTtl; });
        CHECK(table.evict(now_s, 0).size() == expired);
        num_evicted += expired;
        if (now_s % 20 != 19) continue;
        CHECK(table.num_rows() == model.size());
        for (const auto& [fid, entry] : model) {
            uint32_t row;
            std::array<float, kDim> weights;
            table.find(&fid, 1, &row);
            CHECK(row < table.end_row());
            CHECK(table.fid(row) == fid);
            table.gather(&row, 1, weights.data());
            for (float weight : weights) CHECK(weight == entry.updates);
        }
    }
    CHECK(num_evicted > 10'000);
    CHECK(table.end_row() < num_evicted + model.size());  // rows were recycled
}

TEST(results_of_a_batch_do_not_depend_on_the_number_of_threads) {
    std::vector<std::string> contents;
    for (int threads : {1, 2, 3}) {
        ThreadPool::instance().set_num_threads(threads);
        std::mt19937_64 random(4);
        EmbeddingTable table(check::settings_of(kDim, Optimizer::kAdam, 0.1f, 0.5f, 2, 50));
        table.drain("replicas");
        std::string seen;
        for (int64_t now_s = 0; now_s < 12; ++now_s) {
            std::vector<int64_t> fids(30'000);
            for (int64_t& fid : fids) fid = static_cast<int64_t>(random() % 40'000) + now_s * 5'000;
            std::vector<uint32_t> rows(fids.size());
            table.find_or_insert(fids.data(), fids.size(), now_s * 10, rows.data());
            for (uint32_t row : rows) seen += std::to_string(row) + ",";
            check::update(table, rows, [&](uint32_t i, float* sum) { sum[i % kDim] += static_cast<float>(i % 7) - 3; });
            table.evict(now_s * 10, 20'000);
        }
        for (uint32_t row : table.drain("replicas").rows) seen += std::to_string(row) + ";";
        contents.push_back(seen + check::content_of(table));
    }
    ThreadPool::instance().set_num_threads(1);
    CHECK(contents[0] == contents[1]);
    CHECK(contents[0] == contents[2]);
}

TEST(a_consumer_gets_all_rows_first_and_then_the_changes) {
    EmbeddingTable table(settings(0));
    const int64_t fids[] = {1, 2};
    uint32_t row;
    table.find_or_insert(&fids[0], 1, 0, &row);
    table.ack("known", table.drain("known").ticket);
    table.find_or_insert(&fids[1], 1, 0, &row);
    CHECK(table.drain("known").rows == std::vector<uint32_t>{row});
    CHECK(table.drain("new").rows.size() == 2);
}

// Two features of one table, a sum and a mean, and one feature of another table; two examples.
struct Pool {
    EmbeddingTable shared{settings(0, 0.5f)}, other{settings(0, 0.5f)};
    std::vector<Feature> features = {
        {&shared, Pooling::kSum, 0}, {&other, Pooling::kSum, 0}, {&shared, Pooling::kMean, 0}};
    std::vector<int64_t> fids = {7, 8, 7, 5, 7, 7, 9};
    std::vector<int64_t> offsets = {0, 2, 3, 3, 4, 6, 7};
    static constexpr size_t kBags = 2, kWidth = 3 * kDim;
    std::vector<float> pooled = std::vector<float>(kBags * kWidth, -1);
    std::vector<uint32_t> rows = std::vector<uint32_t>(fids.size());

    float weight(EmbeddingTable& table, int64_t fid, uint32_t d) {
        uint32_t row;
        table.find(&fid, 1, &row);
        return table.weights(row)[d];
    }
    Batch batch() const { return {features, offsets.data(), nullptr, kBags, kWidth}; }
    void forward() { pooled_forward(batch(), fids.data(), 0, {true, true, true}, pooled.data(), rows.data()); }
};

TEST(features_that_share_a_table_read_the_same_rows) {
    Pool pool;
    pool.forward();
    CHECK(pool.shared.num_rows() == 3 && pool.other.num_rows() == 1);
    for (uint32_t d = 0; d < kDim; ++d) {
        const float seven = pool.weight(pool.shared, 7, d), eight = pool.weight(pool.shared, 8, d);
        CHECK(pool.pooled[d] == seven + eight);
        CHECK(pool.pooled[Pool::kWidth + d] == seven);
        CHECK(pool.pooled[kDim + d] == 0);  // an empty bag
        CHECK(pool.pooled[Pool::kWidth + kDim + d] == pool.weight(pool.other, 5, d));
        CHECK(pool.pooled[2 * kDim + d] == (seven + seven) / 2);
        CHECK(pool.pooled[Pool::kWidth + 2 * kDim + d] == pool.weight(pool.shared, 9, d));
    }
}

TEST(features_that_share_a_table_take_one_step_together) {
    Pool pool;
    pool.forward();
    const float seven = pool.weight(pool.shared, 7, 1), nine = pool.weight(pool.shared, 9, 1);
    const float five = pool.weight(pool.other, 5, 1);
    std::vector<float> gradients(Pool::kBags * Pool::kWidth);
    for (size_t i = 0; i < gradients.size(); ++i) {
        const size_t part = i / kDim + 1;
        gradients[i] = static_cast<float>(part);
    }
    CHECK(pooled_backward(pool.batch(), pool.rows.data(), gradients.data()) == 4);
    CHECK(pool.weight(pool.shared, 7, 1) == seven - (1 + 4 + 2 * 0.5f * 3));
    CHECK(pool.weight(pool.shared, 9, 1) == nine - 6);
    CHECK(pool.weight(pool.other, 5, 1) == five - 5);
}

}  // namespace
