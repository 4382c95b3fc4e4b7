// Snapshots: the same table comes back, and a file that is not whole is refused.
#include <memory>

#include "check.hpp"
#include "snapshot.hpp"
#include "temporary_file.hpp"

namespace {

using namespace monolith;

constexpr std::array kOptimizers = {Optimizer::kSgd, Optimizer::kAdagrad, Optimizer::kRowwiseAdagrad, Optimizer::kAdam,
                                    Optimizer::kFtrl};

TableSettings settings(Optimizer optimizer) { return {4, optimizer, {0.1f}, 0.25f, 7, 2, 100}; }

// Rows, candidates, evicted fids, a consumer with drains in flight and one without.
std::unique_ptr<EmbeddingTable> make_table(Optimizer optimizer, int64_t num_fids) {
    auto table = std::make_unique<EmbeddingTable>(settings(optimizer));
    table->drain("replicas");
    table->register_consumer("archive");
    for (int64_t pass = 0; pass < 3; ++pass) {
        for (int64_t fid = -num_fids / 2; fid < num_fids / 2; fid += pass + 1) {
            uint32_t row;
            table->find_or_insert(&fid, 1, pass * 60, &row);
            table->update(&row, 1, [&](uint32_t, float* sum) { sum[fid & 3] += static_cast<float>(fid); });
        }
        table->evict(pass * 60 + 50);
        if (pass == 1) table->ack("archive", table->drain("archive").ticket);
    }
    table->drain("replicas");
    return table;
}

std::string body(EmbeddingTable& table) {
    Writer writer;
    table.serialize(writer);
    return writer.bytes();
}

void restore_new(const std::string& path, Optimizer optimizer = Optimizer::kAdam) {
    EmbeddingTable table(settings(optimizer));
    restore(table, path);
}

TEST(crc32c_has_the_published_check_value) {
    CHECK(crc32c("123456789", 9) == 0xE3069283u);
    CHECK(crc32c("6789", 4, crc32c("12345", 5)) == 0xE3069283u);
}

TEST(every_rule_comes_back_with_all_it_held) {
    for (Optimizer optimizer : kOptimizers)
        for (int64_t num_fids : {0, 5'000}) {
            const auto table = make_table(optimizer, num_fids);
            const check::TemporaryFile file;
            save(*table, file.path());
            CHECK(::access((file.path() + ".tmp").c_str(), F_OK) != 0);
            EmbeddingTable restored(settings(optimizer));
            restore(restored, file.path());
            CHECK(restored.num_rows() == table->num_rows());
            CHECK((restored.num_rows() > 0) == (num_fids > 0));
            CHECK(body(restored) == body(*table));
        }
}

TEST(settings_are_read_from_the_file) {
    const auto table = make_table(Optimizer::kFtrl, 10);
    const check::TemporaryFile file;
    save(*table, file.path());
    const TableSettings got = settings_of(read_snapshot(file.path()).header);
    CHECK(got.dim == 4 && got.optimizer == Optimizer::kFtrl && got.hyper.lr == 0.1f && got.init_scale == 0.25f);
    CHECK(got.seed == 7 && got.admit_after == 2 && got.ttl_s == 100);
    CHECK_THROWS(restore_new(file.path(), Optimizer::kSgd), SnapshotError);
}

TEST(a_torn_file_is_refused_wherever_it_ends) {
    const auto table = make_table(Optimizer::kAdam, 20);
    const check::TemporaryFile file;
    save(*table, file.path());
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
    save(*table, file.path());
    const std::string whole = file.read();
    for (size_t bit = 0; bit < whole.size() * 8; ++bit) {
        std::string damaged = whole;
        damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
        file.write(damaged);
        CHECK_THROWS(restore_new(file.path(), Optimizer::kRowwiseAdagrad), SnapshotError);
    }
}

TEST(a_body_that_ends_too_early_is_refused_without_its_checksum_too) {
    const auto table = make_table(Optimizer::kAdagrad, 20);
    const std::string whole = body(*table);
    for (size_t size = 0; size < whole.size(); ++size) {
        const std::string torn = whole.substr(0, size);  // its own memory: the sanitizer sees a read beyond its end
        EmbeddingTable restored(settings(Optimizer::kAdagrad));
        Reader reader(torn.data(), torn.size());
        CHECK_THROWS(restored.serialize(reader), SnapshotError);
    }
}

TEST(what_cannot_be_opened_is_refused) {
    const auto table = make_table(Optimizer::kSgd, 2);
    CHECK_THROWS(save(*table, "/absent/a.table"), SnapshotError);
    CHECK_THROWS(restore_new("/absent/a.table"), SnapshotError);
    CHECK_THROWS(restore_new("/"), SnapshotError);
}

}  // namespace
