--- A value is freed before it is taken: the chain needs two levels.
-- table o: id int key, sku text:utf8mb4_0900_ai_ci unique, price decimal null
-- update o (1, b'a', None) -> (1, b'c', None)
-- update o (2, b'b', None) -> (2, b'a', None)

UPDATE (VALUES ROW(1,'c',NULL)) AS n(c0,c1,c2) STRAIGHT_JOIN `o` AS t FORCE INDEX (`PRIMARY`) ON t.`id`=n.c0 SET t.`sku`=n.c1,t.`price`=n.c2;
DO IF(ROW_COUNT()=1,0,(SELECT 1 UNION ALL SELECT 2));
UPDATE (VALUES ROW(2,'a',NULL)) AS n(c0,c1,c2) STRAIGHT_JOIN `o` AS t FORCE INDEX (`PRIMARY`) ON t.`id`=n.c0 SET t.`sku`=n.c1,t.`price`=n.c2;
DO IF(ROW_COUNT()=1,0,(SELECT 1 UNION ALL SELECT 2));
