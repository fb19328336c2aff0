# clang-tidy over the sources that the programs consist of (.clang-tidy has the checks), as a test. It is a target of the
# build, so that it runs in parallel, and a second time only for what has changed: a group of sources, compiled as one, is
# looked at again when its object file is newer.
if(NOT CMAKE_UNITY_BUILD)
  return()
endif()
set(checked)
# What stands for SOURCE in the build (a group, or itself) is looked at as NAME.
macro(cowslip_tidy name source object)
  set(done ${CMAKE_BINARY_DIR}/tidy/${name})
  add_custom_command(
    OUTPUT ${done}
    COMMAND clang-tidy-14 -p ${CMAKE_BINARY_DIR} --quiet --extra-arg=-Wno-unknown-warning-option ${source} 2>&1
    COMMAND ${CMAKE_COMMAND} -E touch ${done}
    DEPENDS ${object} ${CMAKE_SOURCE_DIR}/.clang-tidy
    COMMENT "clang-tidy ${name}"
    VERBATIM)
  list(APPEND checked ${done})
endmacro()
foreach(
  target
  cowslip_common cowslip_pool_manager cowslip_device_actor cowslip_mount_actor cowslip_ctl cowslip-pool-manager
  cowslip-device-actor cowslip-mount-actor cowslip)
  get_target_property(sources ${target} SOURCES)
  set(grouped ${sources})
  foreach(source ${sources})
    get_source_file_property(alone ${source} DIRECTORY ${CMAKE_SOURCE_DIR} SKIP_UNITY_BUILD_INCLUSION)
    if(alone)
      list(REMOVE_ITEM grouped ${source})
      file(RELATIVE_PATH path ${CMAKE_SOURCE_DIR} ${source})
      get_filename_component(name ${source} NAME_WE)
      cowslip_tidy(${target}_${name} ${source} ${CMAKE_BINARY_DIR}/CMakeFiles/${target}.dir/${path}.o)
    endif()
  endforeach()
  list(LENGTH grouped count)
  math(EXPR last "(${count} - 1) / ${CMAKE_UNITY_BUILD_BATCH_SIZE}")
  foreach(group RANGE ${last})
    set(group_source ${CMAKE_BINARY_DIR}/CMakeFiles/${target}.dir/Unity/unity_${group}_cxx.cxx)
    cowslip_tidy(${target}_${group} ${group_source} ${group_source}.o)
  endforeach()
endforeach()
add_custom_target(tidy DEPENDS ${checked})

cmake_host_system_information(RESULT processors QUERY NUMBER_OF_LOGICAL_CORES)
cowslip_script_test(tidy 900 ${CMAKE_COMMAND} --build ${CMAKE_BINARY_DIR} --target tidy -- --quiet -k 0)
set_tests_properties(tidy PROPERTIES PROCESSORS ${processors})
