--- Inserts alone go through LOAD.
-- table p: id int key, v int
-- insert p (1, 10), (2, 20)
-- insert p (3, 30)

LOAD DATA LOCAL INFILE 'replicator-rows' INTO TABLE `p` CHARACTER SET binary FIELDS TERMINATED BY 0x1e ESCAPED BY 0x1d LINES TERMINATED BY 0x1f (`id`,`v`);
DO IF(ROW_COUNT()=3 AND @@warning_count=0,0,(SELECT 1 UNION ALL SELECT 2));
-- body: b'1\x1e10\x1f2\x1e20\x1f3\x1e30\x1f'
