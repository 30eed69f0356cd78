"""The metrics page's declarations: every metric that TF Serving 2.20 declares, by kind.

The real server declares all of them and gives samples for those in use; so does this one.
"""

from __future__ import annotations

__all__ = ["KINDS"]

_COUNTERS = """
    :jax:pjrt:pjrt_executable_execution_time_usecs :jax:pjrt:pjrt_executable_executions
    :tensorflow:cc:saved_model:load_attempt_count :tensorflow:cc:saved_model:load_latency
    :tensorflow:compiler:tf2xla:xla_compiler:compilation_status :tensorflow:core:aot_bef_mlir_load_count
    :tensorflow:core:bfc_allocator_delay :tensorflow:core:checkpoint:sharding:callback_duration
    :tensorflow:core:checkpoint:sharding:num_checkpoint_shards_written
    :tensorflow:core:checkpoint:write:checkpoint_size :tensorflow:core:checkpoint:write:training_time_saved
    :tensorflow:core:direct_session_runs :tensorflow:core:eager_client_error_count
    :tensorflow:core:function_graph_optimization_time_usecs :tensorflow:core:graph_build_calls
    :tensorflow:core:graph_build_time_usecs :tensorflow:core:graph_optimization_cache_failure_count
    :tensorflow:core:graph_optimization_cache_hit_count :tensorflow:core:graph_optimization_cache_load_count
    :tensorflow:core:graph_optimization_cache_miss_count :tensorflow:core:graph_optimization_saving_time_usec
    :tensorflow:core:graph_optimization_usecs :tensorflow:core:graph_run_time_usecs :tensorflow:core:graph_runs
    :tensorflow:core:graph_unused_outputs :tensorflow:core:mlir_function_pass_fallback_count
    :tensorflow:core:mlir_function_pass_graph_conversion_count
    :tensorflow:core:mlir_graph_optimization_pass_fallback_count
    :tensorflow:core:mlir_v1_compat_graph_conversion_count
    :tensorflow:core:mlir_v1_compat_graph_conversion_failure_model_name_count
    :tensorflow:core:persistent_cache_load_count :tensorflow:core:saved_model:read:api
    :tensorflow:core:saved_model:read:count :tensorflow:core:saved_model:write:api
    :tensorflow:core:saved_model:write:count :tensorflow:core:test_counters
    :tensorflow:core:tf1_features_by_graph_count
    :tensorflow:core:tf2xla:api:v1:tf_dialect_to_executor_dialect_status
    :tensorflow:core:tf2xla:api:v2:dynamism_function_counter :tensorflow:core:tf2xla:api:v2:dynamism_op_counter
    :tensorflow:core:tf2xla:api:v2:phase2_compilation_status
    :tensorflow:core:tf2xla:api:v2:tf_dialect_to_executor_dialect_status
    :tensorflow:core:tf2xla:graph_compilation_failed_op_count
    :tensorflow:core:tf2xla:internal:inference:tpu_partitioned_call
    :tensorflow:core:tf2xla:mlir_second_phase_failed_legalization_op_count
    :tensorflow:core:tf2xla:mlir_second_phase_non_static_op_count
    :tensorflow:core:tf2xla:mlir_second_phase_non_static_op_skip_count :tensorflow:core:tf2xla:tf_quant_op_count
    :tensorflow:core:tf2xla:v1:mlir_failed_xla_legalize_tf_count
    :tensorflow:core:tf2xla:v1:mlir_failed_xla_legalize_tf_pass_count :tensorflow:core:tf_function_compile
    :tensorflow:core:tf_mlir_bridge_first_phase_v2_count :tensorflow:core:tf_top_level_jit_compilation
    :tensorflow:core:xla_compilation_time_usecs :tensorflow:core:xla_compilations
    :tensorflow:core:xla_launch_counter :tensorflow:data:autoshard_rewrite_batch_size:eligible
    :tensorflow:data:autoshard_rewrite_batch_size:reason :tensorflow:data:autotune
    :tensorflow:data:autotune_stopping_criteria :tensorflow:data:bytes_consumed :tensorflow:data:bytes_fetched
    :tensorflow:data:bytes_produced :tensorflow:data:bytes_read :tensorflow:data:debug
    :tensorflow:data:dense_feature :tensorflow:data:elements :tensorflow:data:error :tensorflow:data:experiment
    :tensorflow:data:experiment_live :tensorflow:data:experiment_opt_in :tensorflow:data:experiment_opt_out
    :tensorflow:data:fetch_op :tensorflow:data:file_logger_attempts
    :tensorflow:data:file_logger_attempts_num_files :tensorflow:data:file_logger_errors
    :tensorflow:data:file_logger_errors_num_files :tensorflow:data:filename :tensorflow:data:fingerprint
    :tensorflow:data:framework_type :tensorflow:data:iterator_busy :tensorflow:data:iterator_lifetime
    :tensorflow:data:optimization :tensorflow:data:ragged_feature :tensorflow:data:service:client_iterators
    :tensorflow:data:service:compression :tensorflow:data:service:cross_trainer_cache_queries
    :tensorflow:data:service:data_transfer_protocol_error
    :tensorflow:data:service:data_transfer_protocol_fallback
    :tensorflow:data:service:data_transfer_protocol_used
    :tensorflow:data:service:data_transfer_protocol_used_by_nature :tensorflow:data:service:jobs_created
    :tensorflow:data:service:snapshot_bytes_committed :tensorflow:data:service:snapshot_ops
    :tensorflow:data:service:workers_created :tensorflow:data:sparse_feature
    :tensorflow:lite:quantization:transforms:stats :tensorflow:rpc:service:response_cache_hits
    :tensorflow:serving:batching_session:wrapped_run_count :tensorflow:serving:model_warmup_records_read
    :tensorflow:serving:request_count :tensorflow:serving:request_example_count_total
    :tensorflow:serving:request_log_count :tensorflow:tpu:op_error_count
    :tensorflow:tpu:variable_distribution_time :tensorflow:tpu:xla_spmd_cores_per_replica
    :xla:service:cpu:compiler_stacktrace_count
"""

_GAUGES = """
    :coordination_service:agent:enabled :pjrt:gpu:free_gpu_system_memory
    :tensorflow:api:op:using_fake_quantization :tensorflow:config:experimental:enable_mlir_bridge_gauge_v1
    :tensorflow:config:experimental:enable_mlir_bridge_gauge_v2
    :tensorflow:core:checkpoint:sharding:callback_description :tensorflow:core:eager_context_created
    :tensorflow:core:saved_model:found_fingerprint_on_load :tensorflow:core:saved_model:read:fingerprint
    :tensorflow:core:saved_model:read:path :tensorflow:core:saved_model:read:path_and_singleprint
    :tensorflow:core:saved_model:write:fingerprint :tensorflow:core:saved_model:write:path
    :tensorflow:core:saved_model:write:path_and_singleprint :tensorflow:core:session_created
    :tensorflow:core:use_auto_outside_compilation :tensorflow:core:use_dynamic_padding_gauge
    :tensorflow:core:worker_session_created :tensorflow:data:autoshard :tensorflow:data:model
    :tensorflow:data:pipeline_processing_time :tensorflow:data:service:cross_trainer_cache_size_bytes
    :tensorflow:data:service:optimal_number_of_workers :tensorflow:serving:mlmd_map
"""

_HISTOGRAMS = """
    :tensorflow:cc:saved_model:load_latency_by_stage :tensorflow:core:checkpoint:read:read_durations
    :tensorflow:core:checkpoint:write:async_write_durations :tensorflow:core:checkpoint:write:write_durations
    :tensorflow:core:graph_pending_queue_length_histogram :tensorflow:core:graph_run_input_tensor_bytes
    :tensorflow:core:graph_run_output_tensor_bytes :tensorflow:core:graph_run_time_usecs_histogram
    :tensorflow:data:buffered_vs_budget_ratio :tensorflow:data:getelement_duration
    :tensorflow:data:getnext_duration :tensorflow:data:iterator_gap :tensorflow:data:used_vs_budget_ratio
    :tensorflow:serving:batching_session:queuing_latency :tensorflow:serving:model_warmup_latency
    :tensorflow:serving:request_example_counts :tensorflow:serving:request_latency
    :tensorflow:serving:runtime_latency
"""

KINDS: dict[str, str] = {
    **dict.fromkeys(_COUNTERS.split(), "counter"),
    **dict.fromkeys(_GAUGES.split(), "gauge"),
    **dict.fromkeys(_HISTOGRAMS.split(), "histogram"),
}
"""Metric name to its Prometheus type."""
