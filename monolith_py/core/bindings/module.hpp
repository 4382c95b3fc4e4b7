// Registration of each part of the module, one source file per part.
#pragma once

#include <nanobind/nanobind.h>

void bind_id_map(nanobind::module_& m);
void bind_table(nanobind::module_& m);
void bind_packed_rows(nanobind::module_& m);
void bind_pooled(nanobind::module_& m);
void bind_interaction(nanobind::module_& m);
void bind_tower(nanobind::module_& m);
void bind_joiner(nanobind::module_& m);
void bind_joiner_settings(nanobind::module_& m);
void bind_joined(nanobind::module_& m);
void bind_kafka_records(nanobind::module_& m);
void bind_examples(nanobind::module_& m);
void bind_impressions(nanobind::module_& m);
void bind_replica(nanobind::module_& m);
void bind_fixed_model(nanobind::module_& m);
void bind_ranking(nanobind::module_& m);
void bind_ranked(nanobind::module_& m);
void bind_front(nanobind::module_& m);
