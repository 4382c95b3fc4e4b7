// Tests of snapshots: a restored table is equal, also if it changed during the save; incomplete files are refused.
#include <array>
#include <memory>

#include "check.hpp"
#include "table_settings.hpp"
#include "temporary_file.hpp"

namespace {

using namespace monolith;

constexpr std::array kOptimizers = {
    Optimizer::kSgd,      Optimizer::kMomentum, Optimizer::kAdagrad,      Optimizer::kRowwiseAdagrad,
    Optimizer::kAdadelta, Optimizer::kRmsprop,  Optimizer::kAdam,         Optimizer::kAmsgrad,
    Optimizer::kAdamW,    Optimizer::kFtrl,     Optimizer::kGroupAdagrad, Optimizer::kGroupFtrl};

TableSettings settings(Optimizer optimizer) { return check::settings_of(4, optimizer, 0.1f, 0.25f, 2, 100); }

void live(EmbeddingTable& table, int64_t first, int64_t last, int64_t step, int64_t now_s) {
    for (int64_t fid = first; fid < last; fid += step) {
        std::vector<uint32_t> row(1);
        table.find_or_insert(&fid, 1, now_s, row.data());
        check::update(table, row, [&](uint32_t, float* sum) { sum[fid & 3] += static_cast<float>(fid); });
    }
}

// A table with rows, candidates, evicted fids, a consumer with unacknowledged drains and one without.
std::unique_ptr<EmbeddingTable> make_table(Optimizer optimizer, int64_t num_fids) {
    auto table = std::make_unique<EmbeddingTable>(settings(optimizer));
    table->drain("replicas");
    table->drain("archive");
    for (int64_t pass = 0; pass < 3; ++pass) {
        live(*table, -num_fids / 2, num_fids / 2, pass + 1, pass * 60);
        table->evict(pass * 60 + 50, 0);
        if (pass == 1) table->ack("archive", table->drain("archive").ticket);
    }
    table->drain("replicas");
    return table;
}

void restore_new(const std::string& path, Optimizer optimizer = Optimizer::kAdam) {
    EmbeddingTable table(settings(optimizer));
    restore(table, path, {});
}

std::vector<int64_t> pending(EmbeddingTable& table, const std::string& consumer) {
    const TouchedSet::Drained drained = table.drain(consumer);
    std::vector<int64_t> fids;
    for (const uint32_t row : drained.rows) fids.push_back(table.fid(row));
    std::sort(fids.begin(), fids.end());
    fids.insert(fids.end(), drained.evicted.begin(), drained.evicted.end());
    return fids;
}

TEST(crc32c_has_the_published_check_value) {
    CHECK(crc32c("123456789", 9) == 0xE3069283u);
    CHECK(crc32c("6789", 4, crc32c("12345", 5)) == 0xE3069283u);
    CHECK(~crc32c_portable("123456789", 9, ~0u) == 0xE3069283u);
}

TEST(every_optimizer_is_restored_with_its_state) {
    for (Optimizer optimizer : kOptimizers)
        for (int64_t num_fids : {0, 5'000}) {
            const auto table = make_table(optimizer, num_fids);
            const check::TemporaryFile file;
            check::save(*table, file.path());
            CHECK(::access((file.path() + ".tmp").c_str(), F_OK) != 0);
            EmbeddingTable restored(settings(optimizer));
            restore(restored, file.path(), {});
            CHECK((restored.num_rows() > 0) == (num_fids > 0));
            CHECK(check::content_of(restored) == check::content_of(*table));
            for (const char* consumer : {"replicas", "archive"})
                CHECK(pending(restored, consumer) == pending(*table, consumer));
        }
}

TEST(a_table_changed_during_a_save_is_saved_as_of_the_end) {
    const auto table = make_table(Optimizer::kAdagrad, 40'000);
    CHECK(table->num_shards() == IdMap::kShards);
    const check::TemporaryFile file;
    SnapshotWriter writer(*table, file.path(), 1, 0);
    for (int64_t turn = 0; writer.copy(50) == CopyStatus::kMore; ++turn) {
        if (turn > 400) continue;  // stop the changes, so that the copy ends
        live(*table, -500 + turn * 50, -400 + turn * 50, 1, 200 + turn);
        table->evict(200 + turn, 2'000);
    }
    live(*table, 100'000, 100'040, 1, 700);
    writer.finish();
    const std::string expected = check::content_of(*table);
    live(*table, 0, 1'000, 1, 800);
    writer.commit();
    EmbeddingTable restored(settings(Optimizer::kAdagrad));
    restore(restored, file.path(), {});
    CHECK(check::content_of(restored) == expected);
}

TEST(increments_advance_a_restored_base) {
    const auto table = make_table(Optimizer::kAdam, 30'000);
    std::vector<std::unique_ptr<check::TemporaryFile>> files;
    std::vector<std::string> contents;
    for (uint64_t id = 1; id < 5; ++id) {
        files.push_back(std::make_unique<check::TemporaryFile>());
        check::save(*table, files.back()->path(), id, id - 1);
        contents.push_back(check::content_of(*table));
        live(*table, static_cast<int64_t>(id) * 3'000, static_cast<int64_t>(id) * 3'500, 1,
             120 + static_cast<int64_t>(id) * 30);
        table->evict(120 + static_cast<int64_t>(id) * 30, 0);
    }
    CHECK(files[1]->read().size() < files[0]->read().size());
    EmbeddingTable restored(settings(Optimizer::kAdam));
    for (size_t i = 0; i < files.size(); ++i) {
        if (i + 1 < files.size()) CHECK_THROWS(restore(restored, files[i + 1]->path(), {}), SnapshotError);
        restore(restored, files[i]->path(), {});
        CHECK(check::content_of(restored) == contents[i]);
    }
}

TEST(shares_of_a_snapshot_are_disjoint_and_together_the_whole) {
    const auto table = make_table(Optimizer::kSgd, 30'000);
    const check::TemporaryFile file;
    check::save(*table, file.path());
    for (size_t parts : {1, 3, 7}) {
        size_t rows = 0, entries = 0;
        for (size_t part = 0; part < parts; ++part) {
            EmbeddingTable share(settings(Optimizer::kSgd));
            restore(share, file.path(), {part, parts});
            rows += share.num_rows();
            share.for_each([&](int64_t fid, uint32_t row, uint16_t, int64_t) {
                uint32_t of_whole;
                table->find(&fid, 1, &of_whole);
                CHECK((row == kNoRow) == (of_whole == kNoRow));
                if (row != kNoRow) CHECK(share.weights(row)[1] == table->weights(of_whole)[1]);
                ++entries;
            });
        }
        size_t expected = 0;
        table->for_each([&](int64_t, uint32_t, uint16_t, int64_t) { ++expected; });
        CHECK(rows == table->num_rows());
        CHECK(entries == expected);
    }
}

TEST(settings_are_read_from_the_file) {
    const auto table = make_table(Optimizer::kFtrl, 10);
    const check::TemporaryFile file;
    check::save(*table, file.path(), 77);
    const SnapshotMeta meta = read_meta(SnapshotFileReader(file.path()));
    const Slice& slice = meta.settings.slices.at(0);
    CHECK(slice.dim == 4 && slice.optimizer == Optimizer::kFtrl && slice.hyperparameters.lr == 0.1f &&
          slice.init_scale == 0.25f);
    CHECK(meta.settings.seed == 7 && meta.settings.admit_after == 2 && meta.settings.ttl_s == 100 && meta.id == 77 &&
          meta.parent == 0);
}

TEST(rows_are_kept_under_another_optimizer) {
    const auto table = make_table(Optimizer::kFtrl, 10);
    const check::TemporaryFile file;
    check::save(*table, file.path());
    EmbeddingTable other(settings(Optimizer::kSgd));
    restore(other, file.path(), {});
    CHECK(other.num_rows() == table->num_rows());
    other.for_each([&](int64_t fid, uint32_t row, uint16_t, int64_t) {
        uint32_t before;
        table->find(&fid, 1, &before);
        CHECK((row == kNoRow) == (before == kNoRow));
        if (row != kNoRow) CHECK(other.weights(row)[1] == table->weights(before)[1]);
    });
}

TEST(a_torn_file_is_refused_wherever_it_ends) {
    const auto table = make_table(Optimizer::kAdam, 20);
    const check::TemporaryFile file;
    check::save(*table, file.path());
    const std::string whole = file.read();
    for (size_t size = 0; size < whole.size(); ++size) {
        file.write(whole.substr(0, size));
        CHECK_THROWS(restore_new(file.path()), SnapshotError);
    }
    file.write(whole + '\0');
    CHECK_THROWS(restore_new(file.path()), SnapshotError);
    file.write(whole);
    restore_new(file.path());
}

TEST(a_flipped_bit_is_refused_wherever_it_is) {
    const auto table = make_table(Optimizer::kRowwiseAdagrad, 8);
    const check::TemporaryFile file;
    check::save(*table, file.path());
    const std::string whole = file.read();
    for (size_t bit = 0; bit < whole.size() * 8; ++bit) {
        std::string damaged = whole;
        damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
        file.write(damaged);
        CHECK_THROWS(restore_new(file.path(), Optimizer::kRowwiseAdagrad), SnapshotError);
    }
}

TEST(a_path_that_cannot_be_opened_is_refused) {
    const auto table = make_table(Optimizer::kSgd, 2);
    CHECK_THROWS(check::save(*table, "/absent/a.table"), SnapshotError);
    CHECK_THROWS(restore_new("/absent/a.table"), SnapshotError);
    CHECK_THROWS(restore_new("/"), SnapshotError);
}

}  // namespace
